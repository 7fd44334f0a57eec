-- job, from (host), to (host), message: a queued job goes to another host
local id = arg.job
if field(id, 'state') ~= 'queued' or field(id, 'host') ~= arg.from then return {'kept'} end
set(id, 'host', arg.to, 'queue_time', now(), 'told_host', '')
say(id, 'warning', 'HOST_CHANGED', arg.message, field(id, 'attempt'), {from = arg.from, to = arg.to})
put(id, 'job', cjson.encode({state = 'queued', attempt = tonumber(field(id, 'attempt')), host = arg.to}))
return {'ok'}

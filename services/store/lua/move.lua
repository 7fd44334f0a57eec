-- id, from host, to host, message: a queued job without steps goes to another host
local id = ARGV[1]
if field(id, 'state') ~= 'queued' or field(id, 'host') ~= ARGV[2] then return {'kept'} end
set(id, 'host', ARGV[3], 'queue_time', now(), 'told_host', '')
say(id, 'warning', 'HOST_CHANGED', ARGV[4], field(id, 'attempt'), {from = ARGV[2], to = ARGV[3]})
put(id, 'job', cjson.encode({state = 'queued', attempt = tonumber(field(id, 'attempt')), host = ARGV[3]}))
return {'ok'}

-- job, from (host, '' for the pool), to (host, '' for the pool), message, checkpoint ('' for the last), lost (its host is):
-- a queued job goes elsewhere
local id = arg.job
if field(id, 'state') ~= 'queued' or field(id, 'host') ~= arg.from then return {'kept'} end
set(id, 'host', arg.to, 'last_host', arg.from, 'avoid', arg.from, 'queue_time', now(), 'told_host', '')
if arg.checkpoint ~= '' then set(id, 'resume_from', arg.checkpoint) end
if arg.lost then  -- a host that dies says nothing against the job
  set(id, 'failed_attempts', math.max(0, tonumber(field(id, 'failed_attempts')) - 1))
end
index(id, 'queued')
say(id, 'warning', 'HOST_CHANGED', arg.message, field(id, 'attempt'), {from = arg.from, to = arg.to, checkpoint = arg.checkpoint})
put(id, 'job', cjson.encode({state = 'queued', attempt = tonumber(field(id, 'attempt')), host = arg.to}))
return {'ok'}

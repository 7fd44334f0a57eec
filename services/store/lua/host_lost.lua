-- job, host, message: say once that the host of a queued job is silent
local id = arg.job
if field(id, 'state') ~= 'queued' or field(id, 'told_host') == arg.host then return {'kept'} end
local host = field(id, 'host')
if host ~= arg.host and not (host == '' and cjson.decode(field(id, 'spec')).host == arg.host) then return {'kept'} end
set(id, 'told_host', arg.host)
say(id, 'warning', 'HOST_LOST', arg.message, field(id, 'attempt'), {host = arg.host})
return {'ok'}

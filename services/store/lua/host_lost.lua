-- id, host, message: say once that the host of a queued job is silent
local id = ARGV[1]
if field(id, 'state') ~= 'queued' or field(id, 'host') ~= ARGV[2] or field(id, 'told_host') == ARGV[2] then return {'kept'} end
set(id, 'told_host', ARGV[2])
say(id, 'warning', 'HOST_LOST', ARGV[3], field(id, 'attempt'), {host = ARGV[2]})
return {'ok'}

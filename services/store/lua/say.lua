-- id, level, type, message, attempt, fields: an event that a service reports
if field(ARGV[1], 'state') == '' then return refused('NOT_FOUND', 'there is no job ' .. ARGV[1]) end
local entry = say(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], cjson.decode(ARGV[6]))
if entry == '' then return refused('NOT_FOUND', 'the events of job ' .. ARGV[1] .. ' have expired') end
return {'ok', entry}

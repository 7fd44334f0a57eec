-- job, level, type, message, attempt, fields: an event that a service reports
if field(arg.job, 'state') == '' then return refused('NOT_FOUND', 'there is no job ' .. arg.job) end
local entry = say(arg.job, arg.level, arg.type, arg.message, arg.attempt, arg.fields)
if entry == '' then return refused('NOT_FOUND', 'the events of job ' .. arg.job .. ' have expired') end
return {'ok', entry}

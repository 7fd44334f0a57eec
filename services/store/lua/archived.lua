-- job, finish_time (the one that was archived), uri, milliseconds (that the ledger's keys stay)
local id = arg.job
if not TERMINAL[field(id, 'state')] or field(id, 'finish_time') ~= arg.finish_time then return {'changed'} end
set(id, 'archive_uri', arg.uri)
redis.call('SREM', 'tl:run:unarchived', id)
for _, kind in ipairs({'stream', 'series', 'tests'}) do redis.call('PEXPIRE', key(kind, id), arg.milliseconds) end
return {'ok'}

-- id, finish time that was archived, uri, milliseconds that the ledger stays
local id = ARGV[1]
if not TERMINAL[field(id, 'state')] or field(id, 'finish_time') ~= ARGV[2] then return {'changed'} end
set(id, 'archive_uri', ARGV[3])
redis.call('SREM', 'tl:run:unarchived', id)
for _, kind in ipairs({'stream', 'series', 'tests'}) do redis.call('PEXPIRE', key(kind, id), ARGV[4]) end
return {'ok'}

-- job, lists (keys of the indexes by owner and label): forget all that Redis knows of a job at a terminal state.
-- The files of its checkpoints lie on hosts, which read what to remove; its objects in the store, where the caller removes them.
local id = arg.job
local state = field(id, 'state')
if state == '' then return refused('NOT_FOUND', 'there is no job ' .. id) end
if not TERMINAL[state] then
  return refused('IN_USE', 'job ' .. id .. ' is ' .. string.upper(state) .. '; cancel it before it is deleted')
end
local user = redis.call('SRANDMEMBER', key('uses', id))
if user then return refused('IN_USE', 'job ' .. user .. ' starts from job ' .. id .. ' and isn\'t finished') end
local request = field(id, 'request')
if request ~= '' then redis.call('DEL', request) end
for _, record in ipairs(redis.call('HVALS', key('checkpoints', id))) do
  redis.call('ZADD', 'tl:run:left-states', now(), cjson.decode(record).path)
end
for _, kind in ipairs({'job', 'stream', 'series', 'tests', 'checkpoints', 'lineage', 'lease', 'uses'}) do redis.call('DEL', key(kind, id)) end
redis.call('ZADD', 'tl:run:left-objects', now(), id)
redis.call('ZREM', 'tl:run:jobs', id)
redis.call('ZREM', 'tl:run:finished', id)
redis.call('SREM', 'tl:run:unarchived', id)
redis.call('ZREM', 'tl:run:state:' .. state, id)
for _, list in ipairs(arg.lists) do redis.call('ZREM', list, id) end
return {'ok'}

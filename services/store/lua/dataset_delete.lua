-- dataset, owned (index of the owner's), content (key, or ''), file (its name among those that nobody needs): forget a dataset
local id, content = arg.dataset, arg.content
local target = 'tl:api:dataset:' .. id
local state = redis.call('HGET', target, 'state')
if not state then return refused('NOT_FOUND', 'there is no dataset ' .. id) end
local user = redis.call('SRANDMEMBER', key('uses', id))
if user then return refused('IN_USE', 'job ' .. user .. ' uses dataset ' .. id .. ' and isn\'t finished') end
if state == 'creating' then return refused('IN_USE', 'dataset ' .. id .. ' is being made; cancel it before it is deleted') end
local request = redis.call('HGET', target, 'request')
if request and request ~= '' then redis.call('DEL', request) end
redis.call('DEL', target, 'tl:api:shards:' .. id, key('uses', id))
redis.call('ZREM', 'tl:api:datasets', id)
redis.call('ZREM', 'tl:api:state:' .. state, id)
redis.call('ZREM', arg.owned, id)
if content ~= '' then
  redis.call('SREM', content, id)
  if redis.call('EXISTS', content) == 0 then redis.call('ZADD', 'tl:api:unwanted', now(), arg.file) end
end
return {'ok'}

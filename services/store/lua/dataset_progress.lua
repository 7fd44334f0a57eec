-- dataset, then what is known of: read (conversations), shards (their number), shard (index) with result
local id = arg.dataset
local target, shards = 'tl:api:dataset:' .. id, 'tl:api:shards:' .. id
local refusal = not_in_the_making(id)
if refusal then return refusal end
if arg.read then redis.call('HSET', target, 'conversations_read', arg.read) end
if arg.shards then redis.call('HSET', target, 'shards', arg.shards) end
if arg.shard then redis.call('HSET', shards, arg.shard, arg.result) end
local done = redis.call('HLEN', shards)
redis.call('HSET', target, 'shards_done', done)
redis.call('HINCRBY', target, 'version', 1)
return {'ok', tostring(done)}

-- id, conversations read or '', shards or '', shard index or '', shard result: progress of a dataset that is being made
local id = ARGV[1]
local target, shards = 'tl:api:dataset:' .. id, 'tl:api:shards:' .. id
local state = redis.call('HGET', target, 'state')
if not state then return refused('NOT_FOUND', 'there is no dataset ' .. id) end
if state ~= 'creating' then
  return refused('ILLEGAL_EDGE', 'dataset ' .. id .. ' is ' .. string.upper(state) .. ', nobody waits for its rows any more')
end
if ARGV[2] ~= '' then redis.call('HSET', target, 'conversations_read', ARGV[2]) end
if ARGV[3] ~= '' then redis.call('HSET', target, 'shards', ARGV[3]) end
if ARGV[4] ~= '' then redis.call('HSET', shards, ARGV[4], ARGV[5]) end
local done = redis.call('HLEN', shards)
redis.call('HSET', target, 'shards_done', done)
redis.call('HINCRBY', target, 'version', 1)
return {'ok', tostring(done)}

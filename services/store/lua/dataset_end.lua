-- dataset, state, record, content (key, or ''): CREATING -> READY, FAILED or CANCELLED, once, and READY only with all shards there
local id, to = arg.dataset, arg.state
local target, shards = 'tl:api:dataset:' .. id, 'tl:api:shards:' .. id
local state = redis.call('HGET', target, 'state')
if not state then return refused('NOT_FOUND', 'there is no dataset ' .. id) end
if state == to and redis.call('HGET', target, 'record') == arg.record then return {'ok'} end
if state ~= 'creating' then
  return refused('ILLEGAL_EDGE', 'dataset ' .. id .. ' is ' .. string.upper(state) .. ' and can\'t become ' .. string.upper(to))
end
if to == 'ready' then
  local wanted, done = tonumber(redis.call('HGET', target, 'shards') or 0), redis.call('HLEN', shards)
  if done < wanted then
    return refused('ILLEGAL_EDGE', 'dataset ' .. id .. ' has ' .. done .. ' of ' .. wanted .. ' shards and can\'t become READY')
  end
end
redis.call('HSET', target, 'state', to, 'record', arg.record)
redis.call('HINCRBY', target, 'version', 1)
redis.call('ZREM', 'tl:api:state:creating', id)
local time = redis.call('ZSCORE', 'tl:api:datasets', id)
if time then redis.call('ZADD', 'tl:api:state:' .. to, time, id) end
if arg.content ~= '' then redis.call('SADD', arg.content, id) end
redis.call('DEL', shards)
return {'ok'}

-- id, attempt, checkpoint, record as it was, record as it shall be or '' to remove it
local id, attempt, name = ARGV[1], ARGV[2], ARGV[3]
if not HELD[field(id, 'state')] or field(id, 'attempt') ~= attempt then
  return refused('FENCED', 'attempt ' .. attempt .. ' no longer holds job ' .. id)
end
if redis.call('HGET', key('checkpoints', id), name) ~= ARGV[4] then return {'changed'} end
if ARGV[5] ~= '' then
  redis.call('HSET', key('checkpoints', id), name, ARGV[5])
else
  if name == field(id, 'last_checkpoint') then return refused('CHECKPOINT', 'checkpoint ' .. name .. ' is the last one and has to stay') end
  if name == field(id, 'best_checkpoint') then return refused('CHECKPOINT', 'checkpoint ' .. name .. ' is the best one and has to stay') end
  redis.call('HDEL', key('checkpoints', id), name)
  redis.call('ZREM', key('lineage', id), name)
end
mark_best(id)
return {'ok'}

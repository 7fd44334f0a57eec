-- job, attempt, checkpoint, before (its record as it was read), after (as it shall be; '' removes it),
-- left (path of its files on another host, to be removed there; '': none)
local id, attempt, name = arg.job, arg.attempt, arg.checkpoint
if not holds(id, attempt) then
  return fenced(id, attempt)
end
if redis.call('HGET', key('checkpoints', id), name) ~= arg.before then return {'changed'} end
if arg.after ~= '' then
  redis.call('HSET', key('checkpoints', id), name, arg.after)
else
  if name == field(id, 'last_checkpoint') then return refused('CHECKPOINT', 'checkpoint ' .. name .. ' is the last one and has to stay') end
  if name == field(id, 'best_checkpoint') then return refused('CHECKPOINT', 'checkpoint ' .. name .. ' is the best one and has to stay') end
  redis.call('HDEL', key('checkpoints', id), name)
  redis.call('ZREM', key('lineage', id), name)
  if arg.left ~= '' then redis.call('ZADD', 'tl:run:left-states', now(), arg.left) end
end
mark_best(id)
return {'ok'}

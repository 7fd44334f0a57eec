-- job, attempt, checkpoint, before (its record as it was read), after (as it shall be), step, saved (seconds since 1970), bytes
local id, attempt, name = arg.job, arg.attempt, arg.checkpoint
if not holds(id, attempt) then return fenced(id, attempt) end
if redis.call('HGET', key('checkpoints', id), name) ~= arg.before then return {'changed'} end
redis.call('HSET', key('checkpoints', id), name, arg.after)
local lag = math.max(0, tonumber(now()) - arg.saved)
mark_stored(id)
if name == field(id, 'stored_checkpoint') then set(id, 'stored_lag', exact(lag)) end
redis.call('HINCRBY', 'tl:run:counters', 'stored_bytes', arg.bytes)
redis.call('HINCRBY', 'tl:run:counters', 'checkpoints|stored', 1)
say(id, 'info', 'CHECKPOINT_STORED', string.format('The checkpoint of step %d is in the store, %.1f s after it was saved.', arg.step, lag),
  attempt, {checkpoint = name, step = exact(arg.step), bytes = exact(arg.bytes)})
return {'ok'}

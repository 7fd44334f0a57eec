-- job, attempt, checkpoint, step, before (its record as it was read, '' where there was none), record
local id, attempt, name, step = arg.job, arg.attempt, arg.checkpoint, arg.step
local state = field(id, 'state')
local last = redis.call('LLEN', key('series', id)) - 1
local newest = field(id, 'last_checkpoint')
local saved = newest ~= '' and redis.call('ZSCORE', key('lineage', id), newest) or '-1'
local function answer(outcome) return {outcome, tostring(last), saved, control_of(state, field(id, 'preempt'))} end
if not holds(id, attempt) then
  redis.call('HINCRBY', 'tl:run:counters', 'fenced', 1)
  return answer('fenced')
end
if step > last then return answer('gap') end
if step < tonumber(field(id, 'start_step')) then
  return refused('STEP_ORDER', 'checkpoint ' .. name .. ' of step ' .. step .. ' is older than the one that attempt ' .. attempt .. ' began from')
end
if (redis.call('HGET', key('checkpoints', id), name) or '') ~= arg.before then return {'changed'} end
local new = redis.call('HSET', key('checkpoints', id), name, arg.record) == 1
redis.call('ZADD', key('lineage', id), step, name)
if step >= tonumber(saved) then
  saved = tostring(step)
  set(id, 'last_checkpoint', name, 'last_checkpoint_time', now())
end
mark_best(id)
if new then
  put(id, 'checkpoint', arg.record)
  say(id, 'info', 'CHECKPOINT_SAVED', 'Saved a checkpoint after step ' .. step .. '.', attempt, {checkpoint = name, step = tostring(step)})
  redis.call('HINCRBY', 'tl:run:counters', 'checkpoints|saved', 1)
end
return answer('ok')

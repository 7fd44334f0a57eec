-- dataset, task, holder, bad_shard (index of one, if any), following (tasks to arguments; '': as noted before),
-- last_of (they follow only if no task whose name begins so is left; '': in any case): a task is over
local id, task = arg.dataset, arg.task
local due, work = 'tl:api:work-due:' .. id, 'tl:api:work:' .. id
local refusal = not_holding(id, task, arg.holder)
if refusal then return refusal end
if arg.bad_shard then
  local bad = redis.call('HGET', work, 'bad')
  if not bad or arg.bad_shard < tonumber(bad) then redis.call('HSET', work, 'bad', arg.bad_shard) end
end
redis.call('ZREM', due, task)
if arg.last_of ~= '' then
  for _, left in ipairs(redis.call('ZRANGE', due, 0, -1)) do
    if string.sub(left, 1, #arg.last_of) == arg.last_of then return {'ok'} end
  end
end
for following, argument in pairs(arg.following) do
  if argument ~= '' then redis.call('HSET', work, 'task:' .. following, argument) end
  redis.call('ZADD', due, 'NX', 0, following)
end
return {'ok'}

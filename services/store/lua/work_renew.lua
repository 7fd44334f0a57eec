-- dataset, task, holder, lease (seconds), read (conversations, by this task): keep a task unless it is over, and say how far it is
local id, task = arg.dataset, arg.task
local target, work = 'tl:api:dataset:' .. id, 'tl:api:work:' .. id
local refusal = not_holding(id, task, arg.holder)
if refusal then return refusal end
redis.call('ZADD', 'tl:api:work-due:' .. id, 'XX', tonumber(now()) + arg.lease, task)
local more = arg.read - tonumber(redis.call('HGET', work, 'read:' .. task) or 0)
if more ~= 0 then
  redis.call('HSET', work, 'read:' .. task, arg.read)
  redis.call('HINCRBY', target, 'conversations_read', more)
  redis.call('HINCRBY', target, 'version', 1)
end
return {'ok', redis.call('HGET', work, 'bad') or ''}

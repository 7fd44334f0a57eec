-- dataset, task, holder, lease (seconds), most (attempts): take a task of a dataset that is being made
local id, task, holder = arg.dataset, arg.task, arg.holder
local due, work = 'tl:api:work-due:' .. id, 'tl:api:work:' .. id
local refusal = not_in_the_making(id)
if refusal then return refusal end
local score = redis.call('ZSCORE', due, task)
if not score then return {'done'} end
local other = redis.call('HGET', work, 'holder:' .. task)
if other and other ~= holder and tonumber(score) > tonumber(now()) then return {'taken'} end
if other ~= holder then
  local attempts = redis.call('HINCRBY', work, 'attempts:' .. task, 1)
  if attempts > arg.most then return {'spent', redis.call('HGET', work, 'error:' .. task) or ''} end
end
redis.call('HSET', work, 'holder:' .. task, holder)
redis.call('ZADD', due, tonumber(now()) + arg.lease, task)
return {'ok', redis.call('HGET', work, 'task:' .. task) or '{}', redis.call('HGET', work, 'bad') or ''}

-- dataset, task: the first task of a dataset is due now, if no attempt at it was made
local id, task = arg.dataset, arg.task
local due, work = 'tl:api:work-due:' .. id, 'tl:api:work:' .. id
redis.call('SADD', 'tl:api:making', id)
if redis.call('EXISTS', work) == 0 then redis.call('HSET', work, 'task:' .. task, '{}') end
if redis.call('HEXISTS', work, 'attempts:' .. task) == 0 then redis.call('ZADD', due, 0, task) end
return {'ok'}

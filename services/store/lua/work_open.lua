-- dataset, task, seconds: begin the work on a dataset from a source, unless it has begun
local id, due, work = arg.dataset, 'tl:api:work-due:' .. arg.dataset, 'tl:api:work:' .. arg.dataset
redis.call('SADD', 'tl:api:making', id)
if redis.call('EXISTS', work) == 1 then return {'known'} end
redis.call('HSET', work, 'task:' .. arg.task, '{}')
redis.call('ZADD', due, tonumber(now()) + arg.seconds, arg.task)
return {'ok'}

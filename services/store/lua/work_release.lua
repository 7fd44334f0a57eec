-- dataset, task, holder, why, seconds: give a task back; it is begun anew after so many seconds
local work = 'tl:api:work:' .. arg.dataset
if redis.call('HGET', work, 'holder:' .. arg.task) ~= arg.holder then return {'other'} end
redis.call('HSET', work, 'error:' .. arg.task, arg.why)
redis.call('HDEL', work, 'holder:' .. arg.task)
redis.call('ZADD', 'tl:api:work-due:' .. arg.dataset, tonumber(now()) + arg.seconds, arg.task)
return {'ok'}

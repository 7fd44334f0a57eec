-- dataset, task: nothing but this is left to do
local due = 'tl:api:work-due:' .. arg.dataset
if redis.call('ZSCORE', due, arg.task) then return {'known'} end
redis.call('DEL', due)
redis.call('ZADD', due, 0, arg.task)
return {'ok'}

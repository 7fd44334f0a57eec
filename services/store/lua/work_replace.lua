-- id, task: nothing but this is left to do
local due = 'tl:api:work-due:' .. ARGV[1]
if redis.call('ZSCORE', due, ARGV[2]) then return {'known'} end
redis.call('DEL', due)
redis.call('ZADD', due, 0, ARGV[2])
return {'ok'}

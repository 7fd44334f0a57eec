-- id, task, holder, why, seconds: give a task back; it is begun anew after so many seconds
local work = 'tl:api:work:' .. ARGV[1]
if redis.call('HGET', work, 'holder:' .. ARGV[2]) ~= ARGV[3] then return {'other'} end
redis.call('HSET', work, 'error:' .. ARGV[2], ARGV[4])
redis.call('HDEL', work, 'holder:' .. ARGV[2])
redis.call('ZADD', 'tl:api:work-due:' .. ARGV[1], tonumber(now()) + tonumber(ARGV[5]), ARGV[2])
return {'ok'}

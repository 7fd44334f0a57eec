-- id, task, seconds: begin the work on a dataset from a source, unless it has begun
local id, due, work = ARGV[1], 'tl:api:work-due:' .. ARGV[1], 'tl:api:work:' .. ARGV[1]
redis.call('SADD', 'tl:api:making', id)
if redis.call('EXISTS', work) == 1 then return {'known'} end
redis.call('HSET', work, 'task:' .. ARGV[2], '{}')
redis.call('ZADD', due, tonumber(now()) + tonumber(ARGV[3]), ARGV[2])
return {'ok'}

-- key of the sweep, key of its list, job: append a job once
if redis.call('EXISTS', ARGV[1]) == 0 then return refused('NOT_FOUND', 'there is no such sweep') end
for _, name in ipairs(redis.call('LRANGE', ARGV[2], 0, -1)) do
  if name == ARGV[3] then return {'ok'} end
end
redis.call('RPUSH', ARGV[2], ARGV[3])
return {'ok'}

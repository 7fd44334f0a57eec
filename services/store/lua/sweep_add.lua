-- key (of the sweep), list (its key), job: append a job once
if redis.call('EXISTS', arg.key) == 0 then return refused('NOT_FOUND', 'there is no such sweep') end
for _, name in ipairs(redis.call('LRANGE', arg.list, 0, -1)) do
  if name == arg.job then return {'ok'} end
end
redis.call('RPUSH', arg.list, arg.job)
return {'ok'}

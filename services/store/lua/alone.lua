-- key, token, milliseconds: hold or take the lease of a process that there shall be one of; '' milliseconds gives it back
local holder = redis.call('GET', ARGV[1])
if holder and holder ~= ARGV[2] then return {'other', holder} end
if ARGV[3] == '' then
  redis.call('DEL', ARGV[1])
else
  redis.call('SET', ARGV[1], ARGV[2], 'PX', ARGV[3])
end
return {'ok'}

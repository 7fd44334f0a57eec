-- key, holder, milliseconds: hold or take the lease of a process that there shall be one of; no milliseconds give it back
local holder = redis.call('GET', arg.key)
if holder and holder ~= arg.holder then return {'other', holder} end
if arg.milliseconds then
  redis.call('SET', arg.key, arg.holder, 'PX', arg.milliseconds)
else
  redis.call('DEL', arg.key)
end
return {'ok'}

-- id, milliseconds: the API is still checking this job
if field(ARGV[1], 'state') ~= 'validating' then
  return refused('ILLEGAL_EDGE', 'job ' .. ARGV[1] .. ' is no longer VALIDATING')
end
redis.call('SET', key('lease', ARGV[1]), 0, 'PX', ARGV[2])
return {'ok'}

-- job, lease (milliseconds): the API is still checking this job
if field(arg.job, 'state') ~= 'validating' then
  return refused('ILLEGAL_EDGE', 'job ' .. arg.job .. ' is no longer VALIDATING')
end
redis.call('SET', key('lease', arg.job), 0, 'PX', arg.lease)
return {'ok'}

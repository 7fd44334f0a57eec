-- dataset: put one of an earlier version into the index by state; a sweep's id is none, and nothing happens
local time = redis.call('ZSCORE', 'tl:api:datasets', arg.dataset)
local state = redis.call('HGET', 'tl:api:dataset:' .. arg.dataset, 'state')
if time and state then redis.call('ZADD', 'tl:api:state:' .. state, time, arg.dataset) end
return {'ok'}

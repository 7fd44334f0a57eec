-- id, error of a lost worker, error of a lost validation, limit, far limit: what the supervisor does when nobody renews a lease
local id = ARGV[1]
local state = field(id, 'state')
if redis.call('EXISTS', key('lease', id)) == 1 then return {'held'} end
if state == 'validating' then
  set(id, 'error', ARGV[3])
  say(id, 'error', 'VALIDATION_LOST', cjson.decode(ARGV[3]).message, 0)
  go(id, 'failed')
  return {'ended'}
end
if not HELD[state] then return {'held'} end
local worker = field(id, 'worker')
local answer = end_attempt(id, 'worker_lost', 'Worker ' .. worker .. ' stopped renewing its lease at step ' .. field(id, 'step')
  .. '; the last checkpoint is ' .. (field(id, 'last_checkpoint') ~= '' and field(id, 'last_checkpoint') or 'none') .. '.',
  ARGV[2], true, tonumber(ARGV[4]), tonumber(ARGV[5]))
if answer then return answer end
return {'ended'}

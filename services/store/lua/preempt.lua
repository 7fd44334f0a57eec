-- id, attempt, reason: the next commit answers "preempt"
local id, attempt = ARGV[1], ARGV[2]
if not HELD[field(id, 'state')] or field(id, 'attempt') ~= attempt then
  return refused('FENCED', 'attempt ' .. attempt .. ' no longer holds job ' .. id)
end
if field(id, 'preempt') == '' then
  set(id, 'preempt', ARGV[3])
  say(id, 'info', 'PREEMPTING', 'The worker has to leave (' .. ARGV[3] .. '): it saves a checkpoint first.', attempt)
end
return {'ok'}

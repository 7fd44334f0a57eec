-- job, record (text of steps.py), counters (name to count; to seconds where it ends with |sum)
local id, record = arg.job, cjson.decode(arg.record)
local function value(name) return record[STEP_FIELD[name]] end
local attempt, step, tested = value('attempt'), value('step'), value('test_nll_sum') ~= cjson.null
local job = redis.call('HMGET', key('job', id), 'state', 'attempt', 'start_step', 'preempt', 'initial_attempt', 'attempt_steps', 'last_checkpoint',
  'rungs', 'passed_rung')
local state, start = job[1] or '', tonumber(job[3])
local length = redis.call('LLEN', key('series', id))
local last = length - 1
local saved = (job[7] or '') ~= '' and redis.call('ZSCORE', key('lineage', id), job[7]) or '-1'
local function answer(outcome) return {outcome, tostring(last), saved, control_of(state, job[4] or '')} end
if not HELD[state] or job[2] ~= tostring(attempt) then
  redis.call('HINCRBY', 'tl:run:counters', 'fenced', 1)
  return answer('fenced')
end
if step > last + 1 then return answer('gap') end
if step == 0 and job[5] == tostring(attempt) then return answer('ok') end
if step >= 1 and step <= last and step > start then return answer('ok') end
-- The evaluation of the step that the attempt began from: the attempt before had to leave it.
local row = read_row(redis.call('LINDEX', key('series', id), -1))
local late = step >= 1 and step == last and step == start and tested
if late and row.last_test == step then return answer('ok') end
if step <= last and not late and not (step == 0 and last == 0) then
  return refused('STEP_ORDER', 'step ' .. step .. ' of job ' .. id .. ' is part of the checkpoint that attempt ' .. attempt .. ' began from (step ' .. start .. ')')
end

local entry = redis.call('XADD', key('stream', id), '*', 'k', 'step', 'v', arg.record)
local work = redis.call('HMGET', key('job', id), 'work_steps', 'work_nll', 'work_weight', 'work_tokens', 'work_loss_tokens', 'work_rows',
  'work_conversations', 'work_target_bytes', 'work_test_nll', 'work_test_weight', 'work_test_target_bytes')
local values = {}
local function add(name, content) values[#values + 1] = name; values[#values + 1] = content end
row.entry, row.attempt = entry, attempt
if tested and step == 0 then row.test_nll, row.test_weight, row.test_target_bytes, row.best_test = 0, 0, 0, -1 end
for index = late and LAST_TRAIN_SUM + 1 or FIRST_SUM, tested and LAST_SUM or LAST_TRAIN_SUM do
  local name = ROW[index]
  local amount = value(SUMMED[name])
  if amount == cjson.null then amount = 0 end  -- target bytes of an evaluation may be unknown
  row[name] = row[name] + amount
  add('work_' .. name, exact((tonumber(work[index - 1]) or 0) + amount))
end
if step >= 1 and not late then add('work_steps', exact((tonumber(work[1]) or 0) + 1)) end
local mix = value('mix')
if mix and #mix > 0 and not late then  -- a trainer of an earlier version sends none
  row.mix = added(joined(row.mix), mix)
  add('work_mix', joined(added(field(id, 'work_mix'), mix)))
end
if tested then
  local nll, weight, bytes = value('test_nll_sum'), value('test_weight_sum'), value('test_target_bytes')
  if bytes == cjson.null then bytes = 0 end
  redis.call('HSET', key('tests', id), step, exact(nll) .. ' ' .. exact(weight) .. ' ' .. exact(bytes))
  row.last_test = step
  local best = row.best_test >= 0 and test_of(id, row.best_test)
  if not best or nll / weight < best.nll / best.weight then row.best_test = step end
end
if step == 0 then
  redis.call('LSET', key('series', id), 0, write_row(row))
  add('initial_attempt', attempt)
elseif late then
  redis.call('LSET', key('series', id), step, write_row(row))
else
  redis.call('RPUSH', key('series', id), write_row(row))
  last = step
  add('attempt_steps', tonumber(job[6]) + 1)
  add('epoch', value('epoch'))
  add('learning_rate', exact(value('learning_rate')))
  add('last_train_nll', exact(value('nll_sum') / value('weight_sum')))
  add('last_step_time', now())
  -- Tokens per second between this step and up to 20 steps before it, all of this attempt.
  local back = math.min(20, step - start - 1)
  if back > 0 then
    local before = read_row(redis.call('LINDEX', key('series', id), -1 - back))
    local seconds = (tonumber(string.match(entry, '^%d+')) - tonumber(string.match(before.entry, '^%d+'))) / 1000
    if seconds > 0 then add('tokens_per_second', exact((row.tokens - before.tokens) / seconds)) end
  end
end
set(id, unpack(values))
show_row(id, step, row)
-- At a rung of successive halving the run leaves the worker until the other cells are there too. Evaluations of the
-- effective series count, so the first rung that was evaluated and not passed yet is taken, also when a later step brings
-- it up. One that an earlier attempt left in `tests` doesn't.
if state == 'running' and (job[8] or '') ~= '' then
  local passed = tonumber(job[9] or '') or 0
  for word in string.gmatch(job[8], '%S+') do
    local rung = tonumber(word)
    if rung > passed and rung <= step and read_row(redis.call('LINDEX', key('series', id), rung)).last_test == rung then
      set(id, 'rung', word)
      go(id, 'pausing')
      state = 'pausing'
      say(id, 'info', 'RUNG_REACHED', 'Waits for the other cells of its sweep at step ' .. word .. ', where they are compared.',
        attempt, {step = word})
      break
    end
  end
end
for name, amount in pairs(late and {} or arg.counters) do
  redis.call(string.sub(name, -4) == '|sum' and 'HINCRBYFLOAT' or 'HINCRBY', 'tl:run:counters', name, amount)
end
return answer('ok')

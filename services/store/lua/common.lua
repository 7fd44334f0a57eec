-- Put before every script: its arguments, key names, exact numbers, refusals, and the one way in which a job changes its state.
-- EDGES, TERMINAL, HELD and STEP_FIELD are written above this by scripts.py, from records/training.py.

-- One JSON object; numbers arrive as the doubles that were sent, and what Python calls None is absent.
local arg = cjson.decode(ARGV[1])

local function key(kind, id) return 'tl:run:' .. kind .. ':' .. id end

-- A Lua number that goes to the client is cut to an integer, and cjson keeps 14 digits: numbers leave as text.
local function exact(number) return string.format('%.17g', number) end

local function refused(code, sentence) return {'refused', code, sentence} end

local function now()
  local time = redis.call('TIME')
  return time[1] .. string.format('.%06d', time[2])
end

local function field(id, name) return redis.call('HGET', key('job', id), name) or '' end

-- Whether this attempt still has the job.
local function holds(id, attempt)
  return HELD[field(id, 'state')] and field(id, 'attempt') == tostring(attempt)
end

local function fenced(id, attempt) return refused('FENCED', 'attempt ' .. attempt .. ' no longer holds job ' .. id) end

local function set(id, ...) redis.call('HSET', key('job', id), ...) end

-- An entry of the job's stream. The stream of an archived job may be gone; it isn't begun anew without a lifetime.
local function put(id, kind, value)
  if redis.call('EXISTS', key('stream', id)) == 0 and field(id, 'archive_uri') ~= '' then return '' end
  return redis.call('XADD', key('stream', id), '*', 'k', kind, 'v', value)
end

local function say(id, level, type, message, attempt, fields)
  return put(id, 'event', cjson.encode({
    level = level, type = type, message = message, attempt = tonumber(attempt) or 0, fields = fields}))
end

local function control_of(state, preempt)
  if state == 'cancelling' then return 'cancel' end
  if state == 'pausing' then return 'pause' end
  if state == 'running' and preempt ~= '' then return 'preempt' end
  return 'none'
end

local function each_used(id, command)
  for used in string.gmatch(field(id, 'uses'), '%S+') do redis.call(command, key('uses', used), id) end
end

-- Seconds that workers held the job, and what they cost at the price of an hour that the last claim brought.
local function charge(id, time)
  local since = tonumber(field(id, 'held_since'))
  if not since then return end
  local seconds = math.max(0, tonumber(time) - since)
  local price = tonumber(field(id, 'hour_price')) or 0
  set(id, 'held_since', '', 'held_seconds', exact((tonumber(field(id, 'held_seconds')) or 0) + seconds),
    'held_cost', exact((tonumber(field(id, 'held_cost')) or 0) + seconds * price / 3600))
end

-- A refusal where nobody makes the rows of a dataset any more.
local function not_in_the_making(id)
  local state = redis.call('HGET', 'tl:api:dataset:' .. id, 'state')
  if not state then return refused('NOT_FOUND', 'there is no dataset ' .. id) end
  if state ~= 'creating' then
    return refused('ILLEGAL_EDGE', 'dataset ' .. id .. ' is ' .. string.upper(state) .. ', nobody waits for its rows any more')
  end
end

-- A refusal where that is so, or where another worker has a task of the dataset.
local function not_holding(id, task, holder)
  local over = not_in_the_making(id)
  if over then return over end
  if redis.call('HGET', 'tl:api:work:' .. id, 'holder:' .. task) ~= holder then
    return refused('FENCED', 'another worker has task ' .. task .. ' of dataset ' .. id)
  end
end

-- A refusal where the owner already has `quota` jobs VALIDATING or QUEUED; 0: any number.
local function over_quota(owner, quota)
  if quota == 0 or redis.call('SCARD', key('queue', owner)) < quota then return nil end
  return refused('QUOTA', (owner == '' and 'the owner' or 'owner ' .. owner) .. ' has as many jobs in the queue as the quota allows: ' ..
    quota)
end

-- The indexes that name a job by its owner while it is in the queue, by its state, by whether it stands at a rung of its sweep and,
-- while it is QUEUED, by whether it has a host yet or waits in the pool.
local function index(id, from)
  local state, host = field(id, 'state'), field(id, 'host')
  local created = string.format('%.0f', tonumber(field(id, 'create_time')) * 1000000)
  if from ~= state then
    if from then redis.call('ZREM', 'tl:run:state:' .. from, id) end
    redis.call('ZADD', 'tl:run:state:' .. state, created, id)
  end
  if state == 'paused' and field(id, 'rung') ~= '' then
    redis.call('ZADD', 'tl:run:rungs', created, id)
  elseif from == 'paused' then
    redis.call('ZREM', 'tl:run:rungs', id)
  end
  local spec = cjson.decode(field(id, 'spec'))
  local in_queue = state == 'validating' or state == 'queued'
  redis.call(in_queue and 'SADD' or 'SREM', key('queue', spec.owner or ''), id)
  if state == 'queued' and host == '' then
    redis.call('HDEL', 'tl:run:placed', id)
    redis.call('HSET', 'tl:run:waiting', id, cjson.encode({
      owner = spec.owner, priority = spec.priority or 0, model = spec.tuft_model, rank = spec.hyperparameters.lora_rank,
      host = spec.host, avoid = field(id, 'avoid'), last = field(id, 'last_host'), time = field(id, 'queue_time'),
      attempt = tonumber(field(id, 'attempt')), sampled = type(spec.replies) == 'table' or nil}))
    return
  end
  redis.call('HDEL', 'tl:run:waiting', id)
  if state == 'queued' or HELD[state] then
    redis.call('HSET', 'tl:run:placed', id, host .. ' ' .. (spec.owner or ''))
  else
    redis.call('HDEL', 'tl:run:placed', id)
  end
end

-- The only place that writes `state`. Answers nothing, or a refusal.
local function go(id, to)
  local from = field(id, 'state')
  if from == '' then return refused('NOT_FOUND', 'there is no job ' .. id) end
  if not EDGES[from][to] then
    return refused('ILLEGAL_EDGE', 'job ' .. id .. ' is ' .. string.upper(from) .. ' and can\'t become ' .. string.upper(to))
  end
  local time = now()
  set(id, 'state', to)
  if HELD[to] and not HELD[from] then set(id, 'held_since', time) end
  if HELD[from] and not HELD[to] then charge(id, time) end
  if not HELD[to] then
    redis.call('DEL', key('lease', id))
    set(id, 'preempt', '')
  end
  if to == 'paused' then
    redis.call('ZADD', 'tl:run:paused', time, id)
  elseif from == 'paused' then
    redis.call('ZREM', 'tl:run:paused', id)
  end
  if to == 'queued' then set(id, 'queue_time', time, 'worker', '', 'told_host', '') end
  if TERMINAL[to] then
    set(id, 'finish_time', time)
    redis.call('SREM', 'tl:run:active', id)
    redis.call('ZADD', 'tl:run:finished', time, id)
    redis.call('SADD', 'tl:run:unarchived', id)
    each_used(id, 'SREM')
  elseif TERMINAL[from] then
    set(id, 'finish_time', '0', 'archive_uri', '')
    redis.call('ZREM', 'tl:run:finished', id)
    redis.call('SREM', 'tl:run:unarchived', id)
    redis.call('SADD', 'tl:run:active', id)
    each_used(id, 'SADD')
    for _, kind in ipairs({'stream', 'series', 'tests'}) do redis.call('PERSIST', key(kind, id)) end
  end
  index(id, from)
  put(id, 'job', cjson.encode({state = to, attempt = tonumber(field(id, 'attempt')), host = field(id, 'host')}))
end

-- The best checkpoint of the effective run: lowest test NLL, the earlier one of equals.
local function mark_best(id)
  local best, lowest = '', nil
  for _, name in ipairs(redis.call('ZRANGE', key('lineage', id), 0, -1)) do
    local nll = cjson.decode(redis.call('HGET', key('checkpoints', id), name)).test_nll
    if type(nll) == 'number' and (lowest == nil or nll < lowest) then best, lowest = name, nll end
  end
  set(id, 'best_checkpoint', best)
end

-- The newest checkpoint of the effective run that is in the store. Copies don't arrive in the order of steps.
local function mark_stored(id)
  for _, name in ipairs(redis.call('ZREVRANGE', key('lineage', id), 0, -1)) do
    if cjson.decode(redis.call('HGET', key('checkpoints', id), name)).stored then
      if name ~= field(id, 'stored_checkpoint') then
        set(id, 'stored_checkpoint', name, 'stored_step', redis.call('ZSCORE', key('lineage', id), name), 'stored_lag', '')
      end
      return
    end
  end
  set(id, 'stored_checkpoint', '', 'stored_step', '0', 'stored_lag', '')
end

-- A row of the effective series: what a step's record doesn't say, so that cutting the series at any step is exact.
-- "entry attempt nll weight tokens loss_tokens rows conversations target_bytes test_nll test_weight test_bytes last_test best_test",
-- sums from step 1 to this one; last_test and best_test are the steps of the last and the lowest evaluation, or -1.
-- Of a mixture the sums of each dataset follow, in the order of a step's `mix`.
local ROW = {'entry', 'attempt', 'nll', 'weight', 'tokens', 'loss_tokens', 'rows', 'conversations', 'target_bytes',
  'test_nll', 'test_weight', 'test_target_bytes', 'last_test', 'best_test'}
local FIRST_SUM, LAST_TRAIN_SUM, LAST_SUM = 3, 9, 12
-- Which field of a step's record each sum adds up.
local SUMMED = {nll = 'nll_sum', weight = 'weight_sum', tokens = 'tokens', loss_tokens = 'loss_tokens', rows = 'rows',
  conversations = 'conversations', target_bytes = 'target_bytes', test_nll = 'test_nll_sum', test_weight = 'test_weight_sum',
  test_target_bytes = 'test_target_bytes'}

local function read_row(text)
  local row, index = {mix = {}}, 1
  for word in string.gmatch(text, '%S+') do
    if ROW[index] then row[ROW[index]] = index == 1 and word or tonumber(word)
    else row.mix[index - #ROW] = tonumber(word) end
    index = index + 1
  end
  return row
end

-- Numbers with spaces between, exact.
local function joined(numbers)
  local words = {}
  for index, number in ipairs(numbers) do words[index] = exact(number) end
  return table.concat(words, ' ')
end

-- The sums in a text that `joined` made, each with the number of the same place added.
local function added(text, numbers)
  local sums = {}
  for word in string.gmatch(text, '%S+') do sums[#sums + 1] = tonumber(word) end
  for index, number in ipairs(numbers) do sums[index] = (sums[index] or 0) + number end
  return sums
end

local function write_row(row)
  local words = {row.entry}
  for index = 2, #ROW do words[index] = exact(row[ROW[index]]) end
  if #row.mix > 0 then words[#ROW + 1] = joined(row.mix) end
  return table.concat(words, ' ')
end

local EMPTY_ROW = '0-0 0 0 0 0 0 0 0 0 0 0 0 -1 -1'

local function test_of(id, step)
  local words = {}
  for word in string.gmatch(redis.call('HGET', key('tests', id), step) or '', '%S+') do words[#words + 1] = tonumber(word) end
  return {nll = words[1], weight = words[2], bytes = words[3] or 0}
end

-- Copy a row's sums and evaluations into the job's record.
local function show_row(id, step, row)
  local values = {'step', step, 'effective_steps', step}
  for index = FIRST_SUM, LAST_SUM do
    values[#values + 1] = 'effective_' .. ROW[index]
    values[#values + 1] = exact(row[ROW[index]])
  end
  local function add(name, value) values[#values + 1] = name; values[#values + 1] = value end
  if row.last_test >= 0 then
    local test = test_of(id, row.last_test)
    add('test_step', exact(row.last_test))
    add('test_nll', exact(test.nll / test.weight))
    add('test_bits_per_byte', test.bytes > 0 and exact(test.nll / math.log(2) / test.bytes) or '')
    local best = test_of(id, row.best_test)
    add('best_test_step', exact(row.best_test))
    add('best_test_nll', exact(best.nll / best.weight))
  else
    for _, name in ipairs({'test_nll', 'test_bits_per_byte', 'best_test_nll'}) do add(name, '') end
    add('test_step', '0')
    add('best_test_step', '0')
  end
  if #row.mix > 0 or field(id, 'effective_mix') ~= '' then add('effective_mix', joined(row.mix)) end
  set(id, unpack(values))
end

-- Ends the current attempt of a held job that isn't done. Answers nothing, or a refusal.
-- An attempt that committed no step counts towards `limit`; one that passed no earlier step counts towards `far_limit`.
local function end_attempt(id, reason, message, error, counted, limit, far_limit)
  local state = field(id, 'state')
  local attempt = field(id, 'attempt')
  if error ~= '' then set(id, 'last_error', error) end
  say(id, counted and 'warning' or 'info', string.upper(reason), message, attempt, {reason = reason})
  redis.call('HINCRBY', 'tl:run:counters', 'resumes|' .. reason, 1)
  if state == 'cancelling' then return go(id, 'cancelled') end
  if state == 'pausing' then
    local answer = go(id, 'paused')
    if not answer and field(id, 'cancel_wanted') ~= '' then answer = go(id, 'cancelled') end
    return answer
  end
  local idle, stalled = tonumber(field(id, 'failed_attempts')), tonumber(field(id, 'stalled_attempts'))
  local step, furthest = tonumber(field(id, 'step')), tonumber(field(id, 'furthest'))
  if counted then
    idle = field(id, 'attempt_steps') == '0' and idle + 1 or 0
    stalled = step > furthest and 0 or stalled + 1
  end
  set(id, 'failed_attempts', idle, 'stalled_attempts', stalled, 'furthest', math.max(step, furthest))
  if idle < limit and stalled < far_limit then
    if reason ~= 'moved' and field(id, 'move_to') ~= '' then  -- the next claim would forget it without a word
      set(id, 'move_to', '')
      say(id, 'warning', 'NOT_MOVED', 'The attempt ended before the job was moved, so it stays on host ' .. field(id, 'host') ..
        '; ask again.', attempt)
    end
    return go(id, 'queued')
  end
  local why = idle >= limit and (limit .. ' attempts in a row ended without a new step')
    or (far_limit .. ' attempts in a row got no further than step ' .. furthest)
  local last = field(id, 'last_error')
  if last == '' then last = cjson.encode({code = 'NO_PROGRESS', message = why, hint = 'See the logs of the host.'}) end
  set(id, 'error', last)
  say(id, 'error', 'NO_PROGRESS', why .. '; the job has failed', attempt, {reason = reason})
  return go(id, 'failed')
end

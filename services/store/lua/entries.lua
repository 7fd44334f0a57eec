-- job, after (or ''), count: state or '', first entry, the entry `after`, entries after it; in one look
local id, after = arg.job, arg.after
local stream = key('stream', id)
return {
  field(id, 'state'),
  redis.call('XRANGE', stream, '-', '+', 'COUNT', 1),
  after ~= '' and redis.call('XRANGE', stream, after, after) or {},
  redis.call('XRANGE', stream, after ~= '' and '(' .. after or '-', '+', 'COUNT', arg.count),
}

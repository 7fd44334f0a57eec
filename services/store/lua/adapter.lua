-- id, attempt, uri, sha256
if not HELD[field(ARGV[1], 'state')] or field(ARGV[1], 'attempt') ~= ARGV[2] then
  return refused('FENCED', 'attempt ' .. ARGV[2] .. ' no longer holds job ' .. ARGV[1])
end
set(ARGV[1], 'adapter_uri', ARGV[3], 'adapter_sha256', ARGV[4])
return {'ok'}

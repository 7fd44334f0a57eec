-- job, attempt, uri, sha256: where the final adapter lies
if not holds(arg.job, arg.attempt) then
  return fenced(arg.job, arg.attempt)
end
set(arg.job, 'adapter_uri', arg.uri, 'adapter_sha256', arg.sha256)
return {'ok'}

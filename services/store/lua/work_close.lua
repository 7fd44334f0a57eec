-- id: forget the work on a dataset
redis.call('DEL', 'tl:api:work-due:' .. ARGV[1], 'tl:api:work:' .. ARGV[1])
redis.call('SREM', 'tl:api:making', ARGV[1])
return {'ok'}

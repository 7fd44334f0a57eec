-- dataset: forget the work on it
redis.call('DEL', 'tl:api:work-due:' .. arg.dataset, 'tl:api:work:' .. arg.dataset)
redis.call('SREM', 'tl:api:making', arg.dataset)
return {'ok'}

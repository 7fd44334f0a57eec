"""Words, numbers and lines for people: a job's state as text, and a console that no message can manipulate."""

-- In a cluster: puts what is owed into the stream KEYS[1]. ARGV: now, when it is over, names and values. Answers with the entry's number.
return add(KEYS[1], tonumber(ARGV[2]), unpack(ARGV, 3))

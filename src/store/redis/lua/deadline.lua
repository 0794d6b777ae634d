-- ARGV[1] may say 'by' and an instant: whoever asks gives up then. A command that waited in a connection while this server hung
-- must not count what nobody will judge.
local by = string.match(ARGV[1], '^by (%d+)$')
if by and now > tonumber(by) then return 'late' end

-- Forget which steps' own messages were accepted.
if load_run() then forget_sent() end
return 1

-- wrk -s wrk.lua URL -- METHOD BYTES: requests with a body of so many bytes. Prints what it measured as JSON.

function init(args)
   wrk.method = args[1] or "GET"
   local bytes = tonumber(args[2] or "0")
   if bytes > 0 then
      wrk.headers["content-type"] = "text/plain"
      wrk.body = string.rep("x", bytes)
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   print(string.format(
      '{"requests": %d, "us": %d, "p50_us": %d, "p99_us": %d, "broken": %d, "timeouts": %d, "refused": %d}',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.connect + errors.read + errors.write, errors.timeout, errors.status))
end

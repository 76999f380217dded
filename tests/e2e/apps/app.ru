# The matrix's API as a Rack application.

# Reads like HTTP, so that whoever looks for messages inside bodies finds some.
FILLER = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nGET /items/1 HTTP/1.1\r\nhost: a\r\n\r\n0\r\n\r\n"
CHUNKS = [1, 7, 1000, 16384, 40000]

def filler(length)
  (FILLER * (length / FILLER.length + 1))[0, length]
end

def chunks(length)
  Enumerator.new do |pieces|
    CHUNKS.cycle do |size|
      break if length <= 0
      pieces << filler([size, length].min)
      length -= size
    end
  end
end

def sized(status, body)
  [status, { "Content-Type" => "text/plain", "Content-Length" => body.bytesize.to_s }, [body]]
end

run lambda { |env|
  kind, number = env["PATH_INFO"].delete_prefix("/").split("/")
  number = number.to_i
  case [env["REQUEST_METHOD"], kind]
  when %w[GET blob] then sized(200, filler(number))
  when %w[HEAD blob] then [200, { "Content-Length" => number.to_s }, []]
  when %w[GET chunked] then [200, { "Content-Type" => "text/plain" }, chunks(number)]
  when %w[GET status]
    [204, 304].include?(number) ? [number, {}, []] : sized(number, "as you wish\n")
  when %w[GET slow]
    sleep(number / 1000.0)
    sized(200, "slept\n")
  when %w[DELETE items] then [204, {}, []]
  when %w[POST upload] then sized(200, %({"received":#{env["rack.input"].read.bytesize}}))
  else sized(404, "nothing here\n")
  end
}

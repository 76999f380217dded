<?php
// The matrix's API as one script that answers every path.

// Reads like HTTP, so that whoever looks for messages inside bodies finds some.
const FILLER = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nGET /items/1 HTTP/1.1\r\nhost: a\r\n\r\n0\r\n\r\n";
const CHUNKS = [1, 7, 1000, 16384, 40000];

function filler(int $length): string
{
    return substr(str_repeat(FILLER, intdiv($length, strlen(FILLER)) + 1), 0, $length);
}

function stream(int $length): void
{
    for ($turn = 0; $length > 0; $turn++) {
        $size = min(CHUNKS[$turn % count(CHUNKS)], $length);
        echo filler($size);
        flush();
        $length -= $size;
    }
}

function send(int $status, string $body): void
{
    http_response_code($status);
    header("Content-Length: " . strlen($body));
    echo $body;
}

while (ob_get_level() > 0) {
    ob_end_clean();
}
$parts = explode("/", parse_url($_SERVER["REQUEST_URI"], PHP_URL_PATH)) + ["", "", ""];
$number = (int) $parts[2];
match ("$_SERVER[REQUEST_METHOD] $parts[1]") {
    "GET blob", "HEAD blob" => send(200, filler($number)),
    "GET chunked" => stream($number),
    "GET status" => in_array($number, [204, 304]) ? http_response_code($number) : send($number, "as you wish\n"),
    "GET slow" => [usleep($number * 1000), send(200, "slept\n")],
    "DELETE items" => http_response_code(204),
    "POST upload" => send(200, '{"received":' . strlen(file_get_contents("php://input")) . "}"),
    default => send(404, "nothing here\n"),
};

<?php
// The master's end of a tunnel: MessagePack as rybakit/msgpack writes it, and the streams that are given to closures.

function pack_value($value): string
{
    $sized = fn (int $size, int $short, ?int $fix, ?string $byte, string $two, string $four) => match (true) {
        $size < $short => chr($fix | $size),
        $size < 0x100 && $byte !== null => $byte . chr($size),
        $size < 0x10000 => $two . pack('n', $size),
        default => $four . pack('N', $size),
    };
    return match (true) {
        $value === null => "\xc0",
        is_bool($value) => $value ? "\xc3" : "\xc2",
        is_int($value) && $value >= 0 && $value < 0x80 => chr($value),
        is_int($value) && $value >= -0x20 && $value < 0 => chr(0x100 + $value),
        is_int($value) && $value >= 0 && $value < 0x100 => "\xcc" . chr($value),
        is_int($value) && $value >= 0 && $value < 0x10000 => "\xcd" . pack('n', $value),
        is_int($value) && $value >= 0 && $value < 0x100000000 => "\xce" . pack('N', $value),
        is_int($value) => ($value < 0 ? "\xd3" : "\xcf") . pack('J', $value),
        is_float($value) => "\xcb" . pack('E', $value),
        is_string($value) && preg_match('//u', $value)
            => $sized(strlen($value), 32, 0xa0, "\xd9", "\xda", "\xdb") . $value,
        is_string($value) => $sized(strlen($value), 0, null, "\xc4", "\xc5", "\xc6") . $value,
        is_array($value) && array_is_list($value)
            => $sized(count($value), 16, 0x90, null, "\xdc", "\xdd") . implode(array_map('pack_value', $value)),
        is_array($value) => $sized(count($value), 16, 0x80, null, "\xde", "\xdf") . implode(array_map(
            fn ($key) => pack_value($key) . pack_value($value[$key]),
            array_keys($value),
        )),
        default => throw new RuntimeException('Unsupported type "' . get_debug_type($value) . '"'),
    };
}

/** There are not enough bytes for a value yet. */
class Incomplete extends Exception
{
}

class Unpacker
{
    public function __construct(private string $bytes, public int $at = 0)
    {
    }

    public function value()
    {
        $mark = ord($this->take(1));
        return match (true) {
            $mark < 0x80 => $mark,
            $mark < 0x90 => $this->map($mark & 0x0f),
            $mark < 0xa0 => $this->list($mark & 0x0f),
            $mark < 0xc0 => $this->take($mark & 0x1f),
            $mark >= 0xe0 => $mark - 0x100,
            $mark === 0xc0 => null,
            $mark === 0xc2 => false,
            $mark === 0xc3 => true,
            $mark === 0xc4, $mark === 0xd9 => $this->take($this->number('C', 1)),
            $mark === 0xc5, $mark === 0xda => $this->take($this->number('n', 2)),
            $mark === 0xc6, $mark === 0xdb => $this->take($this->number('N', 4)),
            $mark === 0xca => $this->number('G', 4),
            $mark === 0xcb => $this->number('E', 8),
            $mark === 0xcc => $this->number('C', 1),
            $mark === 0xcd => $this->number('n', 2),
            $mark === 0xce => $this->number('N', 4),
            $mark === 0xcf, $mark === 0xd3 => $this->number('J', 8),
            $mark === 0xd0 => $this->number('c', 1),
            $mark === 0xd1 => ($this->number('n', 2) ^ 0x8000) - 0x8000,
            $mark === 0xd2 => ($this->number('N', 4) ^ 0x80000000) - 0x80000000,
            $mark === 0xdc => $this->list($this->number('n', 2)),
            $mark === 0xdd => $this->list($this->number('N', 4)),
            $mark === 0xde => $this->map($this->number('n', 2)),
            $mark === 0xdf => $this->map($this->number('N', 4)),
            default => throw new RuntimeException("a mark that no register sends: $mark"),
        };
    }

    private function take(int $count): string
    {
        if ($this->at + $count > strlen($this->bytes)) {
            throw new Incomplete();
        }
        $this->at += $count;
        return substr($this->bytes, $this->at - $count, $count);
    }

    private function number(string $format, int $count)
    {
        return unpack($format, $this->take($count))[1];
    }

    private function list(int $count): array
    {
        $list = [];
        while ($count-- > 0) {
            $list[] = $this->value();
        }
        return $list;
    }

    private function map(int $count): array
    {
        $map = [];
        while ($count-- > 0) {
            $key = $this->value();
            $map[$key] = $this->value();
        }
        return $map;
    }
}

/** The streams of one connection, as the package's TunnelStream keeps them. */
class Tunnel
{
    private SplObjectStorage $streams;
    private array $byUuid = [];

    /** `$say` sends a message. */
    public function __construct(private Closure $say)
    {
        $this->streams = new SplObjectStorage();
    }

    /** Runs a closure that came over the wire. */
    public function run(string $uuid, string $serialized): void
    {
        $write = new React\Stream\ThroughStream();
        $stream = new React\Stream\CompositeStream(new React\Stream\ThroughStream(), $write);
        $this->streams->attach($stream);
        $this->byUuid[$uuid] = $stream;
        $write->on('data', fn ($data) => ($this->say)(['cmd' => 'data', 'uuid' => $uuid, 'data' => $data]));
        $write->on('end', fn () => $this->finish($stream, ['cmd' => 'end', 'uuid' => $uuid]));
        $stream->on('close', fn () => $this->finish($stream, ['cmd' => 'close', 'uuid' => $uuid]));
        $stream->on('error', function ($error) use ($stream, $uuid) {
            // An exception that holds a closure kills the master here.
            $data = [
                'exception' => serialize($error),
                'class' => get_class($error),
                'message' => $error->getMessage(),
                'code' => $error->getCode(),
            ];
            $this->finish($stream, ['cmd' => 'error', 'uuid' => $uuid, 'data' => $data]);
        });
        try {
            $closure = unserialize($serialized)->serializable->closure;
            $result = $closure($stream);
            if ($result !== $stream) {
                $stream->end($result);
            }
        } catch (Throwable $error) {
            $stream->emit('error', [$error]);
        }
    }

    /** What the register says on a stream: nobody but the stream's listeners catches what these throw. */
    public function hear(string $command, string $uuid, $data): void
    {
        if (!$stream = $this->byUuid[$uuid] ?? null) {
            return;
        }
        if ($command === 'data') {
            $stream->emit('data', [$data]);
            return;
        }
        $this->forget($stream);
        $stream->emit($command, $command === 'error' ? [new Exception($data['message'])] : []);
        $stream->end();
    }

    /** As the package does it, one stream closes while they are gone through: where there are several, some are missed. */
    public function close(): void
    {
        foreach ($this->streams as $stream) {
            $stream->close();
        }
        $this->streams = new SplObjectStorage();
        $this->byUuid = [];
    }

    private function finish($stream, array $message): void
    {
        if ($this->streams->contains($stream)) {
            $this->forget($stream);
            ($this->say)($message);
        }
    }

    private function forget($stream): void
    {
        $this->streams->detach($stream);
        unset($this->byUuid[array_search($stream, $this->byUuid, true)]);
    }
}

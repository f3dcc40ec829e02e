<?php
// A service that gives everything a service can give, and throws everything it can throw.
use React\EventLoop\Loop;
use React\Promise\Deferred;
use React\Promise\PromiseInterface;
use React\Stream\ReadableStreamInterface;
use React\Stream\ThroughStream;

use function React\Promise\reject;
use function React\Promise\resolve;

enum Suit: string
{
    case Hearts = 'hearts';
}

class Money implements JsonSerializable
{
    private $currency = 'EUR';

    public function jsonSerialize(): mixed
    {
        return ['amount' => 5.0, 'currency' => $this->currency];
    }
}

enum Direction
{
    case Up;
}

class Again implements JsonSerializable
{
    public function jsonSerialize(): mixed
    {
        return new Again();
    }
}

/** A promise of another library, which rejects with whatever it likes. */
class Odd implements PromiseInterface
{
    public function then(?callable $fulfilled = null, ?callable $rejected = null): PromiseInterface
    {
        $rejected('no exception');
        return $this;
    }

    public function catch(callable $rejected): PromiseInterface { return $this; }
    public function finally(callable $settled): PromiseInterface { return $this; }
    public function otherwise(callable $rejected): PromiseInterface { return $this; }
    public function always(callable $settled): PromiseInterface { return $this; }
    public function cancel(): void {}
}

class Demo
{
    public function __construct() {}
    public function __get($name) { return 'magic'; }
    protected function secret() {}

    public $shown = ['list' => [1, 2.0]];
    protected $hidden = 'hidden';

    /** What the process holds when nothing waits to be thrown away. */
    public function memory() { gc_collect_cycles(); return memory_get_usage(); }

    public function echo(...$arguments) { return $arguments; }
    public function types(...$arguments) { return array_map('get_debug_type', $arguments); }
    public function keys(array $map) { return array_map(fn ($key) => gettype($key) . ' ' . $key, array_keys($map)); }
    public function dump(array $values) { return array_map(fn ($value) => var_export($value, true), $values); }
    public function pair($first, $second) { return [$first, $second]; }
    public function integer(int $number) { return $number; }
    public function nothing() {}
    public function bytes() { return "\xff\x00\xfe"; }
    public function nested() { return ['a' => [1, [2.5, null]], 7 => ['x' => true], 'none' => []]; }
    public function money() { return [new Money(), Suit::Hearts]; }
    public function itself() { return $this; }
    public function standard() { return (object) ['a' => 1, 'b' => (object) ['c' => 2]]; }
    public function date() { return new DateTime('2024-02-03 04:05:06 UTC'); }
    public function values() { yield 1; yield 'two'; yield ['three' => 3]; }
    public function broken() { yield 1; throw new DomainException('midway', 9); }
    public function emptyValues() { yield from []; }
    public function later($value) { return resolve($value); }
    public function laterValues() { return resolve($this->values()); }
    public function never() { return reject(new LogicException('too late', 3)); }
    public function odd() { return new Odd(); }
    public function resource() { return [STDIN]; }
    public function closure() { return ['inside' => fn () => 1]; }
    public function generatorInside() { return [$this->values()]; }
    public function promiseInside() { return [$this->later(1)]; }
    public function infinite() { return ['a' => INF]; }
    public function infiniteObject() { return (object) ['a' => INF]; }
    public function huge() { return str_repeat('x', 2 << 20); }
    public function many() { return array_fill(0, 70000, null); }
    public function nearlyHuge() { return str_repeat('x', 1 << 19); }
    public function deep(int $levels) { $deep = 1; while ($levels-- > 0) { $deep = [$deep]; } return $deep; }
    public function endless() { $endless = []; $endless[] = &$endless; return $endless; }
    public function holdsClosure() { $this->fail(fn () => 1); }
    public function fail($argument) { throw new Holder('cannot be serialized', $argument); }
    public function error() { return strlen([]); }
    public function anonymous() { throw new class ('nameless', 4) extends Exception {}; }
    public function textCode() { throw new TextCode('as databases do'); }
    public function text(int $bytes) { return str_repeat('x', $bytes); }
    public function range(int $count) { return array_map(fn ($number) => $number + 0.5, range(0, $count - 1)); }
    public function empty() { return [[], new stdClass()]; }
    public function numbers() { return [0, 127, 128, -1, -32, -33, 0x7fffffff, -0x80000000, 0x80000000, PHP_INT_MIN]; }
    public function tooMany() { return array_fill(0, 1 << 20, null); }
    public function unbacked() { return [Direction::Up]; }
    public function endlessObjects() { return new Again(); }
    public function streamInside() { return [new ThroughStream()]; }
    public function stream() { return $this->soon(fn ($stream) => [$stream->write(1), $stream->end('two')]); }
    public function brokenStream() { return $this->soon(fn ($stream) => $stream->emit('error', [new RuntimeException('the line is cut', 6)])); }
    public function closedStream() { return $this->soon(fn ($stream) => [$stream->write(1), $stream->close()]); }
    public function optional($first = 1, $second = 2, $third = 3) { return [$first, $second, $third]; }
    public function nullable(?int $number) { return [$number]; }
    public function variadic($first, ...$more) { return [$first, $more]; }
    public function byReference(array &$list) { sort($list); return $list; }
    public static function fixed($first, $second) { return [$first, $second]; }

    /** Gives each number that it is sent times the factor, and at the end how many there were. */
    public function times(int $factor, ReadableStreamInterface $numbers)
    {
        $products = new ThroughStream();
        $count = 0;
        $numbers->on('data', function ($number) use ($products, $factor, &$count) {
            $count++;
            $products->write(is_string($number) ? $number : $number * $factor);
        });
        $numbers->on('end', function () use ($products, &$count) {
            $products->end($count . ' in all');
        });
        return $products;
    }

    /** Reads after so many seconds; how many bytes came until the end, and how many before it read. */
    public function hesitant(?ReadableStreamInterface $input, float $seconds)
    {
        [$bytes, $early, $is_reading] = [0, 0, false];
        $result = new Deferred(fn () => print("cancelled\n"));
        $input->on('data', function ($text) use (&$bytes, &$early, &$is_reading) {
            $bytes += strlen($text);
            $early += $is_reading ? 0 : strlen($text);
        });
        $input->on('end', function () use ($result, &$bytes, &$early) {
            $result->resolve([$bytes, $early]);
        });
        $input->on('close', fn () => print("input closed\n"));
        $input->pause();
        Loop::addTimer($seconds, function () use ($input, &$is_reading) {
            $is_reading = true;
            $input->resume();
        });
        return $result->promise();
    }

    /** Refuses the second value, or stops to read after the first. */
    public function fussy(ReadableStreamInterface $input, bool $throws)
    {
        $first = new Deferred();
        $count = 0;
        $input->on('data', function ($value) use ($input, $throws, $first, &$count) {
            if ($throws && ++$count > 1) {
                throw new DomainException("not $value");
            }
            if (!$throws) {
                $input->close();
                Loop::addTimer(0.5, fn () => $first->resolve($value));
            }
        });
        return $first->promise();
    }

    public function paced(int $count, float $seconds)
    {
        for ($number = 1; $number <= $count; $number++) {
            yield $number;
            usleep((int) ($seconds * 1e6));
        }
    }

    public function pacedStream(int $count, float $seconds)
    {
        $tick = function ($stream) use (&$tick, &$count, $seconds) {
            if ($count-- < 1) {
                return $stream->end();
            }
            $stream->write($count);
            Loop::addTimer($seconds, fn () => $tick($stream));
        };
        return $this->soon($tick);
    }

    public function megabytes(int $count)
    {
        while ($count-- > 0) {
            yield str_repeat('x', 1_000_000);
        }
    }

    public function megabyteStream(int $count)
    {
        return $this->fill(function () use (&$count) {
            return $count-- > 0 ? str_repeat('x', 1_000_000) : null;
        });
    }

    public function forever()
    {
        try {
            while (true) {
                yield str_repeat('x', 1_000);
            }
        } finally {
            echo "forever stopped\n";
        }
    }

    public function foreverStream()
    {
        $stream = $this->fill(fn () => str_repeat('x', 1_000));
        $stream->on('close', fn () => print("foreverStream stopped\n"));
        return $stream;
    }

    /** A stream of what `$next` gives, as fast as it is taken, as those of React that read files. */
    private function fill(callable $next)
    {
        $waits = false;
        $write = function ($stream) use (&$write, &$waits, $next) {
            if (!$stream->isWritable()) {
                return;
            }
            $value = $next();
            if ($value === null) {
                $stream->end();
            } elseif ($stream->write($value)) {
                Loop::futureTick(fn () => $write($stream));
            } else {
                $waits = true;
            }
        };
        return $this->soon(function ($stream) use (&$write, &$waits) {
            $stream->on('drain', function () use (&$write, &$waits, $stream) {
                if ($waits) {
                    $waits = false;
                    $write($stream);
                }
            });
            $write($stream);
        });
    }

    private function soon(callable $then)
    {
        $stream = new ThroughStream();
        Loop::futureTick(fn () => $then($stream));
        return $stream;
    }

    public function longMessage() { throw new Exception(str_repeat('x', 3 << 20)); }
}

class Holder extends Exception
{
    public function __construct($message, public $held)
    {
        parent::__construct($message, 5);
    }
}

class TextCode extends Exception
{
    protected $code = '42S02';
}

<?php
// A master that stands in for the real one: it unserializes the closures that come on its input, one in base64 a
// line, runs each with a stream of its own, and writes what the stream gives as the real one would. Its classes have
// the names and the shape of those of laravel/serializable-closure, reactphp-x/register-center and react/promise.

namespace Laravel\SerializableClosure {
    class SerializableClosure
    {
        public $serializable;

        public function __unserialize(array $data): void
        {
            $this->serializable = $data['serializable'];
        }
    }
}

namespace Laravel\SerializableClosure\Serializers {
    class Native
    {
        public $closure;

        public function __unserialize(array $data): void
        {
            $self = array_keys($data) === ['use', 'function', 'scope', 'this', 'self'] ? $data['self'] : '';
            if (strlen($self) !== 32) {
                throw new \RuntimeException('not what a closure is made of');
            }
            extract($data['use'], EXTR_OVERWRITE | EXTR_REFS);
            $closure = include 'laravel-serializable-closure://' . $data['function'];
            $this->closure = $closure->bindTo($data['this'], $data['scope']);
        }
    }

    class Signed
    {
        public $closure;

        public function __unserialize(array $data): void
        {
            $hash = base64_encode(hash_hmac('sha256', $data['serializable'], getenv('CLOSURE_KEY'), true));
            if (!hash_equals($hash, $data['hash'])) {
                throw new \RuntimeException('signed with another key');
            }
            $this->closure = unserialize($data['serializable'])->closure;
        }
    }

    class Source
    {
        public $context;
        private string $source;
        private int $at = 0;

        public function stream_open($path)
        {
            $this->source = "<?php\nreturn " . substr($path, strlen('laravel-serializable-closure://')) . ';';
            return true;
        }

        public function stream_read($count)
        {
            $this->at += $count;
            return substr($this->source, $this->at - $count, $count);
        }

        public function stream_eof()
        {
            return $this->at >= strlen($this->source);
        }

        public function stream_stat()
        {
            return ['size' => strlen($this->source)];
        }

        public function stream_set_option()
        {
            return false;
        }
    }

    stream_wrapper_register('laravel-serializable-closure', Source::class);
}

namespace React\Promise {
    interface PromiseInterface
    {
        public function then(?callable $fulfilled = null, ?callable $rejected = null);
    }

    class Settled implements PromiseInterface
    {
        public function __construct(private bool $well, private $with)
        {
        }

        public function then(?callable $fulfilled = null, ?callable $rejected = null)
        {
            ($this->well ? $fulfilled : $rejected)($this->with);
            return $this;
        }
    }
}

namespace ReactphpX\RegisterCenter {
    class ServiceRegistry
    {
        public static array $services = [];
        public static array $metadata = [];

        public static function execute(string $name, string $method, array $arguments = []): mixed
        {
            if (!isset(self::$services[$name])) {
                throw new \RuntimeException("Service '$name' not found");
            }
            if (!method_exists(self::$services[$name], $method)) {
                throw new \RuntimeException("Method '$method' not found in service '$name'");
            }
            return self::$services[$name]->$method(...$arguments);
        }

        public static function getServiceNameAndMetadata(): array
        {
            $services = [];
            foreach (self::$services as $name => $_) {
                $services[$name] = ['name' => $name, 'metadata' => self::$metadata[$name] ?? []];
            }
            return $services;
        }
    }
}

namespace {
    use React\Promise\Settled;
    use ReactphpX\RegisterCenter\ServiceRegistry;

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

    class Demo
    {
        public $shown = ['list' => [1, 2.0]];
        protected $hidden = 'hidden';

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
        public function later($value) { return new Settled(true, $value); }
        public function laterValues() { return new Settled(true, $this->values()); }
        public function never() { return new Settled(false, new LogicException('too late', 3)); }
        public function odd() { return new Settled(false, 'no exception'); }
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

    /** Packs as rybakit/msgpack does by default. */
    function pack_value($value): string
    {
        return match (true) {
            $value === null => "\xc0",
            is_bool($value) => $value ? "\xc3" : "\xc2",
            is_int($value) => $value < 0 ? "\xd3" . pack('J', $value) : "\xcf" . pack('J', $value),
            is_float($value) => "\xcb" . pack('E', $value),
            is_string($value) => "\xdb" . pack('N', strlen($value)) . $value,
            is_array($value) && array_is_list($value)
                => "\xdd" . pack('N', count($value)) . implode(array_map('pack_value', $value)),
            is_array($value) => "\xdf" . pack('N', count($value)) . implode(array_map(
                fn ($key) => pack_value($key) . pack_value($value[$key]),
                array_keys($value),
            )),
            default => throw new RuntimeException('Unsupported type "' . get_debug_type($value) . '"'),
        };
    }

    class Stream
    {
        private bool $open = true;

        public function __construct(private string $uuid)
        {
        }

        public function write($value)
        {
            if ($this->open) {
                $this->say(['cmd' => 'data', 'uuid' => $this->uuid, 'data' => $value]);
            }
        }

        public function end($value = null)
        {
            if ($value !== null) {
                $this->write($value);
            }
            if ($this->open) {
                $this->say(['cmd' => 'end', 'uuid' => $this->uuid]);
            }
            $this->open = false;
        }

        public function fail(Throwable $error)
        {
            // An exception that holds a closure kills the master here.
            $exception = serialize($error);
            $data = ['exception' => $exception, 'message' => $error->getMessage(), 'code' => $error->getCode()];
            $this->say(['cmd' => 'error', 'uuid' => $this->uuid, 'data' => $data]);
            $this->open = false;
        }

        private function say(array $message)
        {
            fwrite(STDOUT, pack_value($message));
        }
    }

    ServiceRegistry::$services = ['demo' => new Demo(), "x'); exit('" => new Demo(), 'bare' => new Demo()];
    ServiceRegistry::$metadata = ['demo' => ['version' => '1.2.0', 'weight' => 0.5, 'f' => fn () => 1, 'r' => STDIN]];
    foreach (file('php://stdin') as $uuid => $line) {
        $stream = new Stream((string) $uuid);
        try {
            $closure = unserialize(base64_decode($line))->serializable->closure;
            $result = $closure($stream);
            if ($result !== $stream) {
                $stream->end($result);
            }
        } catch (Throwable $error) {
            $stream->fail($error);
        }
    }
}

<?php
// Stand-ins for the classes that a real master has: those of laravel/serializable-closure, react/promise and
// reactphp-x/register-center, as far as a closure that comes over the wire can tell.

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
            if (getenv('CLOSURE_KEY') && !Signed::$verified) {
                throw new \RuntimeException('not signed');
            }
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
        /** Whether what is unserialized now was signed. */
        public static bool $verified = false;
        public $closure;

        public function __unserialize(array $data): void
        {
            $hash = base64_encode(hash_hmac('sha256', $data['serializable'], getenv('CLOSURE_KEY'), true));
            if (getenv('CLOSURE_KEY') && !hash_equals($hash, $data['hash'])) {
                throw new \RuntimeException('signed with another key');
            }
            self::$verified = true;
            try {
                $this->closure = unserialize($data['serializable'])->closure;
            } finally {
                self::$verified = false;
            }
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

    class Pending implements PromiseInterface
    {
        private array $waiting = [];

        public function then(?callable $fulfilled = null, ?callable $rejected = null)
        {
            $this->waiting[] = $fulfilled;
            return $this;
        }

        public function fulfil($value)
        {
            foreach ($this->waiting as $fulfilled) {
                $fulfilled($value);
            }
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

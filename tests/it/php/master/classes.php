<?php
// Stand-ins for the classes that a real master has: those of laravel/serializable-closure and reactphp-x/register-center,
// as far as a closure that comes over the wire can tell.

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

namespace Laravel\SerializableClosure\Exceptions {
    class InvalidSignatureException extends \Exception
    {
        protected $message = 'Your serialized closure might have been modified or it\'s unsafe to be unserialized.';
    }
}

namespace Laravel\SerializableClosure\Serializers {
    class Native
    {
        public $closure;

        public function __unserialize(array $data): void
        {
            if (getenv('CLOSURE_KEY') && !Signed::$verified) {
                throw new \Laravel\SerializableClosure\Exceptions\InvalidSignatureException();
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
                throw new \Laravel\SerializableClosure\Exceptions\InvalidSignatureException();
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

namespace ReactphpX\RegisterCenter {
    class Service
    {
        public function __construct(private string $name, private object $instance, private array $metadata = [])
        {
        }

        public function getInstance(): object
        {
            return $this->instance;
        }

        public function getMetadata(): array
        {
            return $this->metadata;
        }
    }

    final class ServiceRegistry
    {
        private static array $services = [];

        public static function register(string $name, object $instance, array $metadata = []): Service
        {
            return self::$services[$name] = new Service($name, $instance, $metadata);
        }

        public static function get(string $name): ?Service
        {
            return self::$services[$name] ?? null;
        }

        public static function remove(string $name): void
        {
            unset(self::$services[$name]);
        }

        public static function getServiceNameAndMetadata(): array
        {
            $services = [];
            foreach (self::$services as $name => $service) {
                $services[$name] = ['name' => $name, 'metadata' => $service->getMetadata()];
            }
            return $services;
        }

        /** As the package has it, which a register need not use: a null, or none, among the arguments loses them. */
        public static function execute(string $name, string $method, array $arguments = []): mixed
        {
            $instance = (self::$services[$name] ?? throw new \RuntimeException("Service '$name' not found"))->getInstance();
            if (!method_exists($instance, $method)) {
                throw new \RuntimeException("Method '$method' not found in service '$name'");
            }
            if (!isset($arguments[0])) {
                $matched = [];
                foreach ((new \ReflectionMethod($instance, $method))->getParameters() as $position => $parameter) {
                    $matched[$position] = $arguments[$parameter->getName()] ?? ($parameter->isOptional()
                        ? $parameter->getDefaultValue()
                        : throw new \RuntimeException("$method lacks {$parameter->getName()}"));
                }
                $arguments = $matched;
            }
            return $instance->$method(...$arguments);
        }
    }
}

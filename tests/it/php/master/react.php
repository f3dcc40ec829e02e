<?php
// Stand-ins for react/event-loop, react/stream and react/promise, as far as a master of the package and what it runs can
// tell: one loop, streams that emit, and promises.

namespace React\EventLoop {
    class Loop
    {
        private static array $ticks = [];
        private static array $timers = [];

        public static function futureTick(callable $then): void
        {
            self::$ticks[] = $then;
        }

        public static function addTimer(float $seconds, callable $then): void
        {
            self::$timers[] = [microtime(true) + $seconds, $then];
        }

        /** Goes round for ever; `$streams` looks at the sockets, and waits so many microseconds for them. */
        public static function run(callable $streams): never
        {
            while (true) {
                $streams(self::turn() ? 0 : 5000);
            }
        }

        /** Goes round once; whether there is more to do at once. */
        public static function turn(): bool
        {
            // What a tick puts off comes after the next look at the sockets.
            [$ticks, self::$ticks] = [self::$ticks, []];
            array_map(fn ($tick) => $tick(), $ticks);
            $now = microtime(true);
            $due = array_filter(self::$timers, fn ($timer) => $timer[0] <= $now);
            self::$timers = array_diff_key(self::$timers, $due);
            foreach ($due as [, $then]) {
                $then();
            }
            return (bool) self::$ticks;
        }
    }
}

namespace React\Stream {
    trait Emits
    {
        private array $listeners = [];

        public function on($event, callable $listener)
        {
            $this->listeners[$event][] = $listener;
        }

        public function emit($event, array $arguments = [])
        {
            foreach ($this->listeners[$event] ?? [] as $listener) {
                $listener(...$arguments);
            }
        }

        public function removeAllListeners()
        {
            $this->listeners = [];
        }
    }

    interface ReadableStreamInterface
    {
        public function on($event, callable $listener);
        public function isReadable();
        public function pause();
        public function resume();
        public function close();
    }

    interface WritableStreamInterface
    {
        public function isWritable();
        public function write($data);
        public function end($data = null);
        public function close();
    }

    interface DuplexStreamInterface extends ReadableStreamInterface, WritableStreamInterface
    {
    }

    final class ThroughStream implements DuplexStreamInterface
    {
        use Emits;

        private bool $writable = true;
        private bool $closed = false;
        private bool $paused = false;
        private bool $drain = false;

        public function isReadable() { return !$this->closed; }
        public function isWritable() { return $this->writable; }
        public function pause() { $this->paused = !$this->closed; }

        public function resume()
        {
            $this->paused = false;
            if ($this->drain) {
                $this->drain = false;
                $this->emit('drain');
            }
        }

        public function write($data)
        {
            if (!$this->writable) {
                return false;
            }
            $this->emit('data', [$data]);
            $this->drain = $this->drain || $this->paused;
            return $this->writable && !$this->paused;
        }

        public function end($data = null)
        {
            if (!$this->writable) {
                return;
            }
            if ($data !== null) {
                $this->write($data);
            }
            $this->writable = $this->paused = $this->drain = false;
            $this->emit('end');
            $this->close();
        }

        public function close()
        {
            if ($this->closed) {
                return;
            }
            $this->writable = $this->paused = $this->drain = false;
            $this->closed = true;
            $this->emit('close');
            $this->removeAllListeners();
        }
    }

    final class CompositeStream implements DuplexStreamInterface
    {
        use Emits;

        private bool $closed = false;

        public function __construct(private $readable, private $writable)
        {
            foreach (['data', 'end', 'error'] as $event) {
                $readable->on($event, fn (...$arguments) => $this->emit($event, $arguments));
            }
            foreach (['drain', 'error', 'pipe'] as $event) {
                $writable->on($event, fn (...$arguments) => $this->emit($event, $arguments));
            }
            $readable->on('close', fn () => $this->close());
            $writable->on('close', fn () => $this->close());
        }

        public function isReadable() { return $this->readable->isReadable(); }
        public function isWritable() { return $this->writable->isWritable(); }
        public function pause() { $this->readable->pause(); }
        public function resume() { $this->readable->resume(); }
        public function write($data) { return $this->writable->write($data); }

        public function end($data = null)
        {
            $this->readable->pause();
            $this->writable->end($data);
        }

        public function close()
        {
            if (!$this->closed) {
                $this->closed = true;
                $this->readable->close();
                $this->writable->close();
                $this->emit('close');
                $this->removeAllListeners();
            }
        }
    }
}

namespace React\Promise {
    interface PromiseInterface
    {
        public function then(?callable $fulfilled = null, ?callable $rejected = null): PromiseInterface;
        public function cancel(): void;
    }

    final class Promise implements PromiseInterface
    {
        private array $waiting = [];
        private ?array $outcome = null;

        public function __construct(private $canceller = null)
        {
        }

        public function then(?callable $fulfilled = null, ?callable $rejected = null): PromiseInterface
        {
            $this->waiting[] = [$fulfilled, $rejected];
            $this->settle($this->outcome);
            return $this;
        }

        public function cancel(): void
        {
            if ($this->canceller && !$this->outcome) {
                ($this->canceller)();
            }
        }

        /** `$outcome` is which of the two callables runs, and on what. */
        public function settle(?array $outcome): void
        {
            if ($this->outcome ??= $outcome) {
                [$waiting, $this->waiting] = [$this->waiting, []];
                [$which, $with] = $this->outcome;
                foreach ($waiting as $callables) {
                    $callables[$which] && $callables[$which]($with);
                }
            }
        }
    }

    final class Deferred
    {
        private Promise $promise;

        public function __construct(?callable $canceller = null)
        {
            $this->promise = new Promise($canceller);
        }

        public function promise(): PromiseInterface { return $this->promise; }
        public function resolve($value): void { $this->promise->settle([0, $value]); }
        public function reject(\Throwable $reason): void { $this->promise->settle([1, $reason]); }
    }

    function resolve($value): PromiseInterface
    {
        $deferred = new Deferred();
        $deferred->resolve($value);
        return $deferred->promise();
    }

    function reject(\Throwable $reason): PromiseInterface
    {
        $deferred = new Deferred();
        $deferred->reject($reason);
        return $deferred->promise();
    }
}
